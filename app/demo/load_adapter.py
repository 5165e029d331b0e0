"""Load an adapter with stock transformers and PEFT, and answer without and with it.

python load_adapter.py BASE_FOLDER ADAPTER_FOLDER PROMPT...
"""

import json
import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, *prompts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)


def answer(prompt: str) -> str:
    """What the model says, greedily."""
    chat = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, enable_thinking=False, return_dict=True, return_tensors="pt"
    )
    said = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return str(tokenizer.decode(said, skip_special_tokens=True))


for prompt in prompts:
    with model.disable_adapter():
        before = answer(prompt)
    print(json.dumps({"prompt": prompt, "before": before, "after": answer(prompt)}))
