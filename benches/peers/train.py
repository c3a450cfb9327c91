"""TRL's GRPOTrainer with PEFT's LoRA on the work of `cargo bench --bench train`: prints what it took as JSON."""
import json
import resource
import sys
import tempfile
import time

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

work = json.load(open(sys.argv[1]))
torch.set_num_threads(work["threads"])
model = AutoModelForCausalLM.from_pretrained(work["folder"], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(work["folder"])
texts = [" ".join(f"w{token}" for token in prompt) for prompt in work["prompts"]]
assert [tokenizer(text)["input_ids"] for text in texts] == work["prompts"]


def parity(completions, **_):
    return [float(int(text.split()[0][1:]) % 2) for text in completions]


class Timed(GRPOTrainer):
    exploring = 0.0

    def _generate_and_score_completions(self, inputs):
        began = time.perf_counter()
        out = super()._generate_and_score_completions(inputs)
        Timed.exploring += time.perf_counter() - began
        return out


rows = work["rows"]
responses = len(texts) * work["samples"]
assert responses % rows == 0, "prompts times samples must be a multiple of rows"
config = GRPOConfig(
    output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, max_steps=work["steps"], learning_rate=1e-4,
    per_device_train_batch_size=rows, gradient_accumulation_steps=responses // rows,
    num_generations=work["samples"], max_completion_length=work["new_tokens"], temperature=1.0,
    generation_kwargs={"min_new_tokens": work["new_tokens"]}, loss_type="dapo", beta=0.0, epsilon_high=0.28,
    # Without it the update is quicker and takes more memory.
    gradient_checkpointing=False,
    report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=1,
)
names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
trainer = Timed(
    model=model, processing_class=tokenizer, reward_funcs=parity, args=config,
    train_dataset=Dataset.from_dict({"prompt": texts}),
    peft_config=LoraConfig(r=work["rank"], lora_alpha=32, target_modules=names),
)
began = time.perf_counter()
trainer.train()
seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(json.dumps({
    "explore_seconds": Timed.exploring, "update_seconds": seconds - Timed.exploring,
    "cpu_seconds": time.process_time(), "peak_rss_megabytes": peak,
}))
