"""What every HTTP server of ours shares: sockets, bounds, certificates, who calls, who may see what, and the shape of answers.

Endpoints are not here; they are beside what they serve. Start at `servers`.
"""
