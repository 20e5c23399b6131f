`Transfers.Webhooks`: URLs that get a signed POST (Standard Webhooks) when a transfer ends, at least once, also after a restart.
