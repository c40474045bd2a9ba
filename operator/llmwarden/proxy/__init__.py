"""The sidecar: carries LLM traffic, measures it beside the path, prices it, gates it by budget, reports it.

`http` knows bytes and nothing of models or money; `seam` is all it sees of the rest. `calls` fills the seam in: it understands a call
through a module of `dialects`, asks the gate in `money`, and settles the call once. `reporter` alone talks to the ledger, off the request
path. Start at `main`.

- A dialect is a module of `dialects` with a `DIALECT`, found by itself. It says which targets are its calls and hands out an `Api` per
  endpoint. `framing` cuts streams. A route tries its backend's own dialects first. docs/dialects.md says what is read from which field.
- Measured are requests to an endpoint that a dialect knows, by the path once it is decoded and normalised, so that no spelling walks around
  a budget. A body is kept up to 16 MiB for the gate; a larger or encoded one streams through, is gated by the budgets' state, and is
  refused where its model must be known. A measured call asks for `Accept-Encoding: identity`.
- Rows and prices go by the model that was *sent*, after a fallback: the gate could resolve that beforehand. Only a deployment's name
  (Azure) that has no price is charged as what answers under it.
- A finished or refused call is one `Record` (`record.py`). `sinks.py` hands it to each sink of the list in `main.py`: journal, gate, metrics,
  spans. A further sink is an entry in that list; a sink that raises is logged and counted, and disturbs neither the call nor the others.
- A call is settled before its last bytes go. A stream is noted in the journal when it begins and once a second; one that dies with its
  process is charged once, as estimated and as an error.
- A pooled connection that dies is replaced only for a GET, HEAD or OPTIONS without a body that got no byte: a POST may have been executed.
- A client that goes away is `error_type="client_disconnected"`: no error in the ledger's rows. A refusal is no usage.
- The last configuration and prices are kept beside the journal: a restart while the ledger is down must neither open a budget nor refuse
  calls for want of a price.
- The parsers are our own, so `tests/fuzz` compares them with h11; an input that ever failed stays in `tests/fuzz/corpus`.

The image runs the hot modules compiled by mypyc; `image/compile.py` lists them. What they may not do: annotations are checked at run time;
classes have the attributes that they declare, and nothing can be patched into them; a class attribute that is no literal is `Final`; no
`TypeVar` with values in a list; a module that uses `msgspec.field` stays interpreted. What does not compile fails the build.
"""
