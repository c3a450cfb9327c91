//! The report as JSON: what the cycle stores, the manifest carries and `--json` prints.

use super::gate::{Condition, conditions};
use crate::config;
use crate::domain::{EvalReport, Guards, Interval, PartGain, Sides, Signs, Verdict, Wins};
use serde_json::{Map, Value, json};

/// The report with the gate's conditions.
#[must_use]
pub fn report_to_json(report: &EvalReport, gate: &config::Gate) -> Value {
    let condition = |c: &Condition| json!({"name": c.name, "held": c.held, "text": c.text});
    let conditions: Vec<Value> = conditions(report, gate).iter().map(condition).collect();
    let mut fields = json!({
        "prompts": report.prompts,
        "changed": report.changed,
        "confidence": report.confidence,
        "champion_reward": report.champion_reward,
        "challenger_reward": report.challenger_reward,
        "reward_gain": interval(report.reward_gain),
        "promote": report.verdict.is_promote(),
        "conditions": conditions,
        "guards": guards(&report.guards),
    });
    let object = fields.as_object_mut().expect("the literal above is an object");
    put(object, "champion_accuracy", report.champion_accuracy.map(Value::from));
    put(object, "challenger_accuracy", report.challenger_accuracy.map(Value::from));
    put(object, "accuracy_gain", report.accuracy_gain.map(interval));
    fields
}

/// Reads what [`report_to_json`] writes; `None` where a field is missing or has another type.
#[must_use]
pub fn report_from_json(value: &Value) -> Option<EvalReport> {
    let number = |name: &str| value.get(name)?.as_f64();
    let count = |name: &str| usize::try_from(value.get(name)?.as_u64()?).ok();
    let failed = || -> Option<Vec<String>> {
        let all = value.get("conditions")?.as_array()?.iter();
        let failed = all.filter(|c| c.get("held").and_then(Value::as_bool) == Some(false));
        failed.map(|c| c.get("text")?.as_str().map(str::to_owned)).collect()
    };
    let verdict = if value.get("promote")?.as_bool()? { Verdict::Promote } else { Verdict::Reject(failed()?) };
    Some(EvalReport {
        prompts: count("prompts")?,
        changed: count("changed")?,
        champion_reward: number("champion_reward")?,
        challenger_reward: number("challenger_reward")?,
        reward_gain: read_interval(value.get("reward_gain")?)?,
        champion_accuracy: number("champion_accuracy"),
        challenger_accuracy: number("challenger_accuracy"),
        accuracy_gain: value.get("accuracy_gain").and_then(read_interval),
        confidence: number("confidence")?,
        guards: value.get("guards").map(read_guards).unwrap_or_default(),
        verdict,
    })
}

fn put(object: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), value);
    }
}

fn interval(interval: Interval) -> Value {
    json!({"mean": interval.mean, "low": interval.low, "high": interval.high})
}

fn read_interval(value: &Value) -> Option<Interval> {
    let number = |name: &str| value.get(name)?.as_f64();
    Some(Interval { mean: number("mean")?, low: number("low")?, high: number("high")? })
}

fn guards(guards: &Guards) -> Value {
    let sides = |s: Sides| json!({"champion": s.champion, "challenger": s.challenger});
    json!({
        "words": sides(guards.words),
        "repetition": sides(guards.repetition),
        "constant_share": sides(guards.constant_share),
        "kl_to_base": guards.kl_to_base,
        "training_gain": guards.training_gain.map(interval),
        "training_reward": guards.training_reward.map(|(first, last)| json!([first, last])),
        "base_reward": guards.base_reward,
        "signs": guards.signs.map(|s| json!({"gains": s.gains, "losses": s.losses, "chance": s.chance})),
        "suites": guards.suites.iter().map(part).collect::<Vec<_>>(),
        "slices": guards.slices.iter().map(part).collect::<Vec<_>>(),
        "tokens": sides(guards.tokens),
        "refusals": guards.refusals.map(sides),
        "unjudged": guards.unjudged,
        "wins": guards.wins.map(|w| json!({"prompts": w.prompts, "share": interval(w.share)})),
        "comparison": guards.comparison,
        "warnings": guards.warnings,
    })
}

fn part(part: &PartGain) -> Value {
    json!({"name": part.name, "prompts": part.prompts, "champion": part.reward.champion,
           "challenger": part.reward.challenger, "gain": interval(part.gain), "base": part.base, "regression_max": part.regression_max})
}

fn read_part(value: &Value) -> Option<PartGain> {
    let number = |name: &str| value[name].as_f64();
    Some(PartGain {
        name: value["name"].as_str()?.to_owned(),
        prompts: usize::try_from(value["prompts"].as_u64()?).ok()?,
        reward: Sides { champion: number("champion")?, challenger: number("challenger")? },
        gain: read_interval(&value["gain"])?,
        base: number("base"),
        regression_max: number("regression_max"),
    })
}

fn read_signs(value: &Value) -> Option<Signs> {
    let count = |name: &str| usize::try_from(value[name].as_u64()?).ok();
    Some(Signs { gains: count("gains")?, losses: count("losses")?, chance: value["chance"].as_f64()? })
}

fn read_wins(value: &Value) -> Option<Wins> {
    Some(Wins { prompts: usize::try_from(value["prompts"].as_u64()?).ok()?, share: read_interval(&value["share"])? })
}

/// What older reports lack is taken as not measured.
fn read_guards(value: &Value) -> Guards {
    let sides = |name: &str| {
        let side = |which: &str| value[name][which].as_f64().unwrap_or_default();
        Sides { champion: side("champion"), challenger: side("challenger") }
    };
    let parts = |name: &str| value[name].as_array().into_iter().flatten().filter_map(read_part).collect();
    let ends = &value["training_reward"];
    let texts = value["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Guards {
        words: sides("words"),
        repetition: sides("repetition"),
        constant_share: sides("constant_share"),
        kl_to_base: value["kl_to_base"].as_f64(),
        training_gain: value.get("training_gain").and_then(read_interval),
        training_reward: ends[0].as_f64().zip(ends[1].as_f64()),
        base_reward: value["base_reward"].as_f64(),
        signs: read_signs(&value["signs"]),
        suites: parts("suites"),
        slices: parts("slices"),
        tokens: sides("tokens"),
        refusals: value["refusals"].is_object().then(|| sides("refusals")),
        unjudged: value["unjudged"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or_default(),
        wins: read_wins(&value["wins"]),
        comparison: value["comparison"].as_u64().and_then(|k| u32::try_from(k).ok()).unwrap_or_default(),
        warnings: texts.map(str::to_owned).collect(),
    }
}
