`"Compression":"auto"` chooses what pays on the link, bucket by bucket; between two txtransfers it may be zstd with shuffled pixels,
which is smaller than gzip and quicker. `Content` of a job tells the `Codec`.
