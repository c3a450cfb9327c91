"""transformers' `generate` on the work of `cargo bench --bench explore`: prints what it took as JSON."""
import json
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM

work = json.load(open(sys.argv[1]))
torch.set_num_threads(work["threads"])
torch.manual_seed(1)
model = AutoModelForCausalLM.from_pretrained(work["folder"], dtype=torch.float32).eval()
model.generation_config.eos_token_id = None


def generate(prompts, samples, new_tokens):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=samples, min_new_tokens=new_tokens, max_new_tokens=new_tokens, pad_token_id=0,
        )
    assert out.shape == (len(prompts) * samples, width + new_tokens), out.shape


generate(work["prompts"][:1], 1, 2)
at_once = work["rows"] // work["samples"]
# Prompts of like length together: the least padding.
prompts = sorted(work["prompts"], key=len)
began = time.perf_counter()
for at in range(0, len(prompts), at_once):
    generate(prompts[at : at + at_once], work["samples"], work["new_tokens"])
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(json.dumps({
    "explore_seconds": seconds, "update_seconds": 0.0, "cpu_seconds": time.process_time(), "peak_rss_megabytes": peak,
}))
