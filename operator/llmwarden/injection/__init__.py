"""What a pod becomes when a proxy is injected: which pods are selected, the sidecar, the redirected calls, and how pods are replaced.

Pure: pod in, pod out. The webhook applies it, the operator explains it. Start at `sidecar`.
"""
