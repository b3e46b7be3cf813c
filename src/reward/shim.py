"""Runs a Python function that was written for verl or TRL: python -c SHIM verl|trl FILE FUNCTION."""
import asyncio, importlib.util, inspect, json, math, os, sys, traceback

kind, path, name = sys.argv[1:4]
requests = os.fdopen(os.dup(0), "rb")
replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # What the function starts must not read the requests.
os.dup2(2, 1)  # What the function prints must not end up among the replies.
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)  # Linux: die with the thread that started this process.
except Exception:
    pass

sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
module_spec = importlib.util.spec_from_file_location("reward", path)
module = importlib.util.module_from_spec(module_spec)
sys.modules["reward"] = module
module_spec.loader.exec_module(module)
if not hasattr(module, name):
    sys.exit("%s has no function %s" % (path, name))
function = getattr(module, name)
parameters = inspect.signature(function).parameters.values()
takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
taken = {p.name for p in parameters}


def call(**arguments):
    if not takes_all:
        arguments = {key: value for key, value in arguments.items() if key in taken}
    result = function(**arguments)
    return asyncio.run(result) if inspect.isawaitable(result) else result


def verl(r):
    result = call(data_source=r["data_source"], solution_str=r["completion"], ground_truth=r["ground_truth"],
                  extra_info=r["extra_info"])
    if result is None:
        raise TypeError("%s returned None; expected a number or a dict with the key score" % name)
    if not isinstance(result, dict):
        return {"score": float(result)}
    reply = {"score": float(result["score"])}
    if "acc" in result:
        reply["right"] = bool(result["acc"])
    parts = {}
    for key, value in result.items():
        try:
            value = float(value) if not isinstance(value, str) else math.nan
        except (TypeError, ValueError):
            continue
        if key != "score" and math.isfinite(value) and key.replace("_", "").replace("-", "").isalnum():
            parts[key] = value
    return {**reply, "parts": parts}


def trl(r):
    row = {"data_source": r["data_source"], "ground_truth": r["ground_truth"], "answer": r["ground_truth"],
           "solution": r["ground_truth"]}
    if isinstance(r["extra_info"], dict):
        row.update(r["extra_info"])
    columns = {key: [value] for key, value in row.items() if key not in ("prompts", "completions")}
    scores = call(prompts=[r["prompt"]], completions=[[{"role": "assistant", "content": r["completion"]}]], **columns)
    if not hasattr(scores, "__len__") or len(scores) != 1:
        raise TypeError("%s must return a list with one number per completion; it returned %r" % (name, scores))
    score = scores[0]
    return {"score": 0.0 if score is None else float(score)}


grade = {"verl": verl, "trl": trl}[kind]
replies.write('{"ready": true}\n')
replies.flush()
for line in requests:
    request = json.loads(line)
    try:
        reply = grade(request)
    except Exception as error:
        traceback.print_exc()
        reply = {"error": "%s: %s" % (type(error).__name__, error)}
    replies.write(json.dumps({"id": request["id"], **reply}) + "\n")
    replies.flush()
