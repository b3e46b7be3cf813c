"""A grader of your own: reads a completion per line, writes a score per line. Try it without a model:

dump-rl grade --data rows.jsonl --completions completions.jsonl --grader '{ command = ["python3", "docs/reward.py"] }'
"""

import json
import sys


def score(completion, ground_truth):
    """1 for the right last word, and up to 0.2 more for a short completion."""
    words = completion.split()
    answer = 1.0 if words and words[-1].strip(".") == ground_truth else 0.0
    return answer, 0.2 / (1 + len(words) / 100)


for line in sys.stdin:
    request = json.loads(line)  # id, data_source, prompt, completion, ground_truth, extra_info
    answer, short = score(request["completion"], request["ground_truth"])
    reply = {"id": request["id"], "score": answer + short, "right": answer > 0, "parts": {"short": short}}
    print(json.dumps(reply), flush=True)  # print anything else to sys.stderr
