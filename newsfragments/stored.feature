What does not shrink, such as JPEG pixels, is stored inside the gzip member instead of being compressed in vain.
