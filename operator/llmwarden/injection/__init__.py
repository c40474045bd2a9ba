"""What a pod becomes when a proxy is injected: which pods are selected, the sidecar, the redirected calls, and how pods are replaced.

Pure: `sidecar.inject(pod, services, settings, ...)` returns the pod with its findings. The webhook turns the difference into a JSON patch,
the operator explains pods with the same functions. A service whose injection stopped says so in its own status, which the webhook's copy
of the LLMServices has: there is no second store. Start at `sidecar`.

Whoever reads another field of an LLMService in `selection`, `sidecar` or `intercept` adds it to `webhook.services.brief`; a test runs every
golden injection by what that keeps.
"""
