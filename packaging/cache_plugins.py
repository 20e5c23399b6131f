"""Have Twisted write what it knows of the plugins in a folder that cannot be written later.

It believes what it has written as long as that is newer than the plugins.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from twisted.plugin import IPlugin, getPlugins

for path in Path(sys.argv[1], "twisted", "plugins").glob("*.py"):
    os.utime(path, (946684800, 946684800))
names = {getattr(plugin, "tapname", None) for plugin in getPlugins(IPlugin)}
if "txtransfers" not in names:
    sys.exit("the plugin of txtransfers was not found")
