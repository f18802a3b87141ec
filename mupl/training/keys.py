"""Whether there is a key of W&B, without which nothing leaves the machine."""


def wandb_key_is_set() -> bool:
    """Say whether W&B finds a key: in WANDB_API_KEY, its settings or what `wandb login` wrote.

    Its server is not asked whether the key is right.
    """
    import wandb

    quieten()
    return wandb.login(prompt=False, verify=False)


def quieten() -> None:
    """Keep W&B from printing a dozen lines for each run."""
    import wandb

    wandb.setup(wandb.Settings(silent=True, console="off"))
