A page at `/transfers/explorer/`, where `/` leads: the archive, with search, upload by drag and drop and the yellow button; transfers, live; what
peers hold, to receive it; and a test of a peer that says what is in the way. `GET /transfers/events` streams what happens to jobs, as
server-sent events. New routes: `/transfers/peers/NAME`, its `test` and `find`, `PUT /jobs/ID/priority`, `GET /jobs/ID/throughput`;
`Description` of a transfer. `/tools/find` knows `OrderBy`, `RequestedTags`, `ResponseContent` and parents, and `/tools/count-resources`
counts. Requests that change something are refused from pages of other sites: a proxy must pass the header `Host` on.
