"""The command ``txtransfers`` for people: the client, behind click and rich.

``cli.py`` comes here where the words ask for it; the daemon needs nothing of this room.
"""
