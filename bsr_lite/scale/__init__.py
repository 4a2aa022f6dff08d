"""What a run takes, before it is started; its adapters merged, after it."""
