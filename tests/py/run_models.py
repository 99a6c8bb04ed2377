"""Runs models in the ONNX Runtime that this Python has; started by runtimes.py.

    python run_models.py LIST.json OUT on|off

LIST.json names the models; the feeds of each are in the `.npz` file of the same name, and
without that file it is only loaded. One line of
JSON per model goes to stdout as soon as it is done, so that a crash tells where it happened;
outputs go to OUT as `.npz`. Only numpy and onnxruntime are imported: both are older here.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def options(opts):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not opts:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def run(model, out, opts):
    try:
        session = ort.InferenceSession(str(model), options(opts), providers=["CPUExecutionProvider"])
    except Exception as error:
        return {"status": "load", "error": str(error)[:500]}
    if not model.with_suffix(".npz").exists():
        return {"status": "ok", "outputs": ""}
    try:
        with np.load(model.with_suffix(".npz")) as feeds:
            outputs = session.run(None, dict(feeds))
    except Exception as error:
        return {"status": "run", "error": str(error)[:500]}
    name = f"{model.stem}.npz"
    np.savez(out / name, *outputs)
    return {"status": "ok", "outputs": name}


def main():
    listing, out, opts = sys.argv[1:]
    for model in json.loads(Path(listing).read_text()):
        print(json.dumps(run(Path(model), Path(out), opts == "on")), flush=True)


main()
