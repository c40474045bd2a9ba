"""Signing for AWS: imported only by a proxy with a route to Bedrock."""
