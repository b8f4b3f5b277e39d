"""Tasks of @NAME@."""

from tidewheel import Retry, ctx, task


@task
def greet(name: str, times: int = 1) -> str:
    """Greets somebody."""
    ctx.log.info("greeting", name=name)
    return " ".join([f"Hello, {name}!"] * times)


@task(retry=Retry(5, delay="1s"), timeout="30s")
def flaky(succeeds_at: int = 3) -> str:
    """Fails until the given attempt: watch the retries with `tidewheel task attempts`."""
    if ctx.attempt < succeeds_at:
        raise ConnectionError(f"attempt {ctx.attempt} is not enough")
    return f"done at attempt {ctx.attempt}"
