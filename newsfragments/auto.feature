The number of buckets in flight (`Threads`) and their size (`BucketSize`) follow the line, unless they are set; an urgent job does
not wait for lower ones, and takes their places bucket by bucket.
