"""Before anything is sent: the survey of the source, the ledger of keys, and the producer that fills the queue."""
