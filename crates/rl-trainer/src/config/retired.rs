//! Keys that had another name, or are gone: they are refused with what to write instead.

use toml::Table;

/// Old keys, and old values of keys that there still are, and what became of each.
const RETIRED: [(&str, &str); 40] = [
    ("agents.layers", "is now `policy.layers`"),
    (
        "agents.threshold",
        "is now `policy.threshold`, of the policy \"apt\"",
    ),
    (
        "agents.network",
        "is gone: the policy's name says it (`policy = \"attentive\"`, \"pairs\", \"dynamic-vit\", \"apt\")",
    ),
    ("agents", "is gone: its keys are the policy's (`[policy]`)"),
    (
        "policy.kind",
        "is now `policy = \"NAME\"`, or `name` in `[policy]`",
    ),
    (
        "policy.uniform",
        "is now `policy.adaptive`, and means the opposite",
    ),
    (
        "policy.taper",
        "is gone: no result supported another value than 1",
    ),
    ("policy.merge=lost", "is now `policy.merge = false`"),
    ("policy.merge=nearest", "is now `policy.merge = true`"),
    ("policy.merge=matched", "is now `policy = \"pairs\"`"),
    (
        "policy.priced",
        "is gone: `policy = \"pairs\"` finds one price for all blocks unless `policy.adaptive = false`",
    ),
    ("budget.flops", "is now `flops`, above all tables"),
    ("budget", "is gone: `flops` stands above all tables"),
    (
        "algorithm.kind",
        "is now `policy.algorithm = \"NAME\"`; without it, the policy's best one",
    ),
    (
        "algorithm.first_order",
        "is gone: `policy.algorithm = \"first-order\"`",
    ),
    (
        "algorithm.lesson",
        "is gone: no result supported another one than \"size\"",
    ),
    (
        "algorithm.scale",
        "is gone: no result supported another value than 0.005",
    ),
    (
        "algorithm.margin",
        "is gone: no result supported another value than 0",
    ),
    (
        "algorithm.cuts",
        "is gone: no result supported another number than 1",
    ),
    ("algorithm.exploration", "is gone: no result supported it"),
    (
        "algorithm.weight",
        "is now `policy.algorithm.agent_loss_weight`",
    ),
    ("algorithm.samples", "is now `policy.algorithm.group_size`"),
    (
        "algorithm.epochs",
        "is now `policy.algorithm.update_epochs`",
    ),
    (
        "algorithm.temperature",
        "is now `policy.algorithm.temperature`",
    ),
    (
        "algorithm",
        "is gone: the algorithm belongs to the policy (`[policy.algorithm]`)",
    ),
    (
        "train.accumulation",
        "is now `train.grad_accumulation_steps`",
    ),
    ("train.steps_per_epoch", "is now `train.eval_interval`"),
    ("train.held_out", "is now `input.val_images`"),
    ("train.held_out_seed", "is now `input.val_seed`"),
    (
        "train.execution",
        "is gone: removed tokens are dropped, which gives the numbers of masking for less work",
    ),
    ("train.agents_every", "is now `train.agent_interval`"),
    (
        "train.agents_warmup_steps",
        "is now `train.agent_warmup_steps`",
    ),
    (
        "train.dense_every",
        "is now `train.dense_interval`; a training without pruning is `policy = \"dense\"`",
    ),
    ("train.distill", "is now `train.distillation_weight`"),
    ("train.clip_norm", "is now `train.max_grad_norm`"),
    ("train.workers", "is now `train.num_workers`"),
    ("model.start", "is now `model.init_from_run`"),
    ("model.positions", "is now `model.pos_embed_resize`"),
    ("optimizer.kind", "is now `optimizer.name`"),
    (
        "optimizer.agents_learning_rate",
        "is now `optimizer.agent_learning_rate`",
    ),
];

/// # Errors
///
/// Names the first retired key that the table has, and what to write instead.
pub(super) fn refuse_retired(table: &Table) -> Result<(), String> {
    for (key, became) in RETIRED {
        if has(table, key) {
            return Err(format!("the key `{key}` {became}"));
        }
    }
    Ok(())
}

/// Does the table have `KEY`, or with `KEY=VALUE` that value?
fn has(table: &Table, key: &str) -> bool {
    let (path, value) = match key.split_once('=') {
        Some((path, value)) => (path, Some(value)),
        None => (key, None),
    };
    let mut parts = path.split('.');
    let first = parts.next().and_then(|first| table.get(first));
    let found = parts.fold(first, |above, part| above?.as_table()?.get(part));
    found.is_some_and(|found| value.is_none_or(|value| found.as_str() == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::Value;

    #[test]
    fn every_retired_key_is_refused_with_what_it_became() {
        for (key, became) in RETIRED {
            let (path, value) = key.split_once('=').unwrap_or((key, "1"));
            let mut value = Value::String(value.into());
            for part in path.rsplit('.') {
                value = Value::Table(Table::from_iter([(part.to_string(), value)]));
            }
            let refused = refuse_retired(value.as_table().unwrap()).unwrap_err();
            assert!(
                refused.contains(key) && refused.contains(became),
                "{refused}"
            );
        }
        assert!(refuse_retired(&Table::new()).is_ok());
    }
}
