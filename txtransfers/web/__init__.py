"""The HTTP face: a resource class a URL node, and the one table that turns errors into answers."""
