"""Thin glue for Lightning, the Hugging Face Trainer and accelerate; each module needs the package of its name.

Nothing here is imported by the rest of thrifty:

    from thrifty.integrations.lightning import ThriftyCallback
    from thrifty.integrations.transformers import apply_to_trainer
    from thrifty.integrations.accelerate import apply_with

All of them exchange the layers before the model is wrapped, hand the loss of every optimizer step to the methods,
averaged over processes so that all of them move alike, and put the methods' state where the package keeps its own.
"""
