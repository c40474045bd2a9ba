"""The ledger: exact usage and money of every service, budgets and leases, configuration and prices for proxies.

The sidecar sees nothing of it but `contracts`. Start at `main`, the process. `http` knows HTTP and `store` the database; `budgets` and
`rating` know neither: they are told what reports added, and judge, in one event loop. The store runs in worker threads, one transaction
at a time (`writer`).

- Reports that come together are merged in one transaction with a constant number of statements (four on PostgreSQL): a parameter is a
  whole table, as JSON. Each statement more would cost the worker thread Python's lock twice, while the event loop wants it.
- A transaction first takes the next number of `changes`, whose row stays locked to its end. So the transactions of all replicas are one
  after the other, and whoever sees a number sees all below it. `spend` has the sums over journals, `log` what each number added: that is
  how replicas follow each other, and how a commit whose answer was lost is found again.
- Grants are decided before the commit, in the event loop, on what is counted, what other replicas committed, and what these rows will add.
  So a transaction that fails leaves neither rows nor grants.
- A restart reads `spend`, not the journals' rows: its time goes by services, models and quarters of an hour, not by pods.
- The ledger watches our kinds and Namespaces itself: it does not need the operator to be alive. Of an object it keeps what it reads, 1.2 kB.
- Providers' own figures are read here and not by the operator, because sums and prices are here, and because only the ledger's role may
  read the Secret with the admin keys. `ProviderAccount` is cluster-scoped: an account is an organisation's. Replicas take turns by a row
  in the database; a provider is never asked because somebody asked us.
- A pod speaks with one replica. On PostgreSQL each replica writes every 30 s which pods it hears from (`presence`).
- Ten thousand connections are half a million objects: `collector` freezes what stands, so that the garbage collector looks only at what is
  young.
- Labels are stored as they were sent: what was folded into "other" would be merged by maximum where a sum is meant. Beyond quotas
  the store folds rows all the same, and remembers each of them (`store/quotas.py`).
- Of a pod only its metadata is read, by name (`pods`): a token proves which pod asks, the metadata what it was injected for.
"""
