"""Whether a stranger can use the adapter: stock transformers + PEFT, nothing of ours, in a process of its own.

``python -I load_check.py BASE ADAPTER`` reads ``[{"prompt": [ids], "completion": [ids]}, ...]`` on standard input and
prints the mean negative log-likelihood of each completion. Run by path, so that it cannot lean on this package.
"""

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main() -> None:
    """Load, ask, print."""
    base_folder, adapter_folder = sys.argv[1:]
    probes = json.load(sys.stdin)
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32, local_files_only=True)
    model = PeftModel.from_pretrained(base, adapter_folder).eval()
    found = []
    for probe in probes:
        ids = torch.tensor([probe["prompt"] + probe["completion"]])
        with torch.no_grad():
            logits_TV = model(ids).logits[0, len(probe["prompt"]) - 1 : -1].float()
        found.append(torch.nn.functional.cross_entropy(logits_TV, torch.tensor(probe["completion"])).item())
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
