"""MONAI Label's own client, in its own environment: a call and its answer per line, as JSON."""

import json
import sys

from monailabel.client import MONAILabelClient

if __name__ == "__main__":
    client = MONAILabelClient(sys.argv[1], tmpdir=sys.argv[2], client_id="slicer")
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            answer = {"answer": getattr(client, method)(**arguments)}
        except Exception as error:
            answer = {"error": str(getattr(error, "msg", error))}
        print(json.dumps(answer), flush=True)
