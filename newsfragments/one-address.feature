In front of an Orthanc (`"Store" : { "Type" : "Orthanc" }`) everything that is not ours is handed on to it: one address for both, and
nothing to install there. Orthanc Explorer gains a yellow button "Transfers accelerator", Orthanc Explorer 2 its entry; jobs, peers,
plugins and metrics of both are shown as one; peers that only Orthanc knows can be used. Who sends with `Synchronous` or
`Asynchronous` to a peer that pulls gets a job here, which follows the peer's. See `docs/gateway.md`.
