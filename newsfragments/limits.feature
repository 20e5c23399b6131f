`Limits`: how many connections there may be, in all and from one address; how slow headers and bodies, how large headers, URLs and
messages, how many uploads and answers at once, how many instances, buckets and chunks in a push, what gzip and ZIP may become, how
much disk is for what is being received. All have defaults that peers do not meet. Beyond them it is 503 with `Retry-After` where that
is a matter of the moment; a txtransfers that sends comes again then, for up to a minute. The daemon raises its own limit of open files.
