A database of an older release is copied (`NAME.before-vN`, the last two are kept) before it is brought to the new version.
