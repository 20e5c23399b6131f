A web cache between daemons can send a study from the second pull on, and never gives old content: `chunks` answers carry ETag and
Cache-Control, and pulls say which content they mean. Where users must log in, nothing is kept unless `Transfers.ChunksCaching` says
so. A sample for nginx is `etc/nginx-cache-txtransfers.conf`.
