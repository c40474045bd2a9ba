"""The operator: watches the cluster, decides, writes objects and statuses.

What objects look like is not here: see `manifests`, `injection` and `status`, which are pure. Start at `reconcile`, which reads as a
sentence; `handlers.main` is the process, `observe` reads the cluster, `act` writes to it.

How ten thousand services fit one replica (`make bench-operator` measures it, docs/performance.md has the figures):

- Work goes by what changed. `observe.world` marks the keys that an event concerns. `observe.outline` knows which services select which pods.
  One service costs the same among ten and among ten thousand.
- The queue has two lanes: an edit, a pod or a drifted child overtakes ticks and resyncs.
- A tick (`sources`) compares hashes of what a status shows (`status.moved`). Where a state may change, the service is looked at. Where only
  figures moved, it waits in a line (`act.publish`), from which `operator.statusWritesPerSecond` statuses are written each second.
- A service is kept as compressed JSON (about 2 kB), with an outline beside it. Of our own objects a name, labels and a hash are kept
  (`child`): an object whose hash is that of its manifest is as it should be. One that differs is read once and compared field by field,
  and both hashes are remembered, so a restart writes nothing.
- The answer to a write is known at once (`observe.owned`), so its echo in the watch wakes nobody.
- Lists come in pages of 100. `memory` makes glibc give freed blocks back.
- A status is one value to server-side apply (`x-kubernetes-map-type: atomic`): field by field, its ownership was a third of the object.
- At its start the operator asks Prometheus and the ledger once before it looks at any service: without figures, states would turn and turn
  back.

Each reconciliation runs in a task of its own: an unforeseen error over one object is logged and counted (`result="bug"`), and ends nothing
else.
"""
