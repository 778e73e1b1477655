"""What the flags of all recipes have in common."""

import keras_hybrid


def refuse(flag, rule, value):
    """Raises the ValueError for a flag that breaks a rule."""
    raise ValueError(f"--{flag} must be {rule}. Received: --{flag}={value}")


def balance_of(config):
    """What `HybridTransfer` takes for --balance: "dynamic" or a number."""
    if config.balance == "dynamic":
        return config.balance
    try:
        keras_hybrid.FixedBalance(float(config.balance))
    except ValueError:
        refuse("balance", '"dynamic" or a number of at least 0', config.balance)
    return float(config.balance)


def exports_of(config):
    """The formats in --export."""
    formats = [part for part in config.export.split(",") if part]
    if not set(formats) <= {"saved_model", "tflite"}:
        refuse("export", "saved_model, tflite or both", config.export)
    return formats
