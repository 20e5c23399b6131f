Transfers survive: jobs go on by themselves after a restart, `kill -9` or a power cut, from the buckets that have arrived, on
both sides. Between two txtransfers the sender asks what is missing; a push that is received waits on the disk for its sender.
A commit that is repeated is told that it is done, and a sender finds out how a commit went whose answer was lost. What the receiver
holds is not sent (`Delta`). Every ended job leaves a receipt, `GET /jobs/ID/receipt`. New keys: `Transfers.JobRetryDelays`,
`Transfers.PushTransactionTimeout`, `Transfers.Delta`, `MaximumStorageSize`; new option `--no-jobs`. A failed job keeps what has
arrived for its resubmission: `cancel` it to free that room at once.
