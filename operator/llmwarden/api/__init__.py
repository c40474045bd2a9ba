"""The custom resources: pydantic models, from which `crdgen` writes the CRDs.

What a value means to the product is not here: see `domain`. Start at `v1alpha1.llmservice`.
"""
