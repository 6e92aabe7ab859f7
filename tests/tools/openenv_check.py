"""Play the game of notebook 11 by OpenEnv's interface, directly and served over HTTP, beside the class itself.

    python -m venv /somewhere && /somewhere/bin/pip install openenv-core==0.3.0
    /somewhere/bin/python tests/tools/openenv_check.py

OpenEnv and what it needs weigh about 470 MB, so the series does not install it. The code is read from the notebook's
text, as a reader would copy it.
"""

import json
import random
import re
import threading
import time
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "11_tools_and_turns.ipynb"
PORT = 8765


def taught() -> dict:
    """The game's class and its export, from the cells."""
    space: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "class Guessing:" in source:
            exec(source, space)
        if cell["cell_type"] == "markdown" and "class OpenGuessing" in source:
            space["GAME"] = [{"role": "user", "content": "Find my number."}]
            exec(re.search(r"```python\n(.*?)```", source, re.DOTALL)[1], space)
    return space


def games(count, reset, step, space) -> int:
    """How many of `count` games end by `reset` and `step` as they do by the class: the same text, the same reward."""
    rng, agree = random.Random(42), 0
    for _ in range(count):
        guesses = rng.sample(range(1, space["HIGHEST"] + 1), space["GUESSES"])
        game, secret = space["Guessing"](), rng.randint(1, space["HIGHEST"])
        game.reset(secret=secret)
        reset(secret=secret)
        for number in guesses:
            told, (text, done, reward) = game.guess(number), step(number)
            if done:
                break
        agree += done and told == text and reward == game.get_reward()
    return agree


def main() -> None:
    import uvicorn
    from openenv.core import GenericEnvClient
    from openenv.core.env_server import create_app

    space = taught()
    env = space["OpenGuessing"]()

    def directly(number):
        seen = env.step(space["Guess"](number=number))
        return seen.text, seen.done, seen.reward

    print("directly:", games(200, env.reset, directly, space), "of 200 games end alike")
    app = create_app(space["OpenGuessing"], space["Guess"], space["Told"], env_name="guessing")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=PORT, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.1)
    with GenericEnvClient(base_url=f"http://127.0.0.1:{PORT}").sync() as client:

        def served(number):
            seen = client.step({"number": number})
            return seen.observation["text"], seen.done, seen.reward

        print("over HTTP:", games(50, client.reset, served, space), "of 50 games end alike")


if __name__ == "__main__":
    main()
