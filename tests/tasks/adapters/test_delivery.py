"""What the flow's threads and the delivery write to one journal at once is all there."""

import json
from concurrent.futures import ThreadPoolExecutor

from tasks.adapters.delivery import Entry


def test_an_entry_keeps_what_several_threads_say(tmp_path):
    entry = Entry(tmp_path)

    def say(number: int) -> None:
        entry.link(f"stage-{number}", "hash")
        entry.tag(**{f"tag-{number}": "x"})
        entry.update(**{f"key-{number}": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(say, range(100)))
    document = json.loads((tmp_path / "run.json").read_text())
    assert len(document["links"]) == len(document["tags"]) == 100
    assert all(document[f"key-{number}"] == number for number in range(100))
