"""The custom resources as pydantic models, and `crdgen`, which writes the CRDs from them.

What a value means to the product is not here: see `domain`. Start at `v1alpha1.llmservice`.
"""
