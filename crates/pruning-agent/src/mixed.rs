//! One batch whose images have different budgets.

use apt_vit_model::host::upload_places;
use apt_vit_model::{
    Exit, Merge, Needs, Observation, Park, Parked, Placement, Reduction, Sequences, TokenReducer,
};

use burn::prelude::*;

use crate::{Policy, Selection};

/// The policy as a reducer that removes of each image what its own selection says: `selections` and `seeds` have one
/// entry for each image of the batch. Of an image with [`Selection::All`] nothing goes.
///
/// It is for inference: what only trainers read of a reduction (logits, masks, shifts) is left out, unless all images have
/// the same selection. None of the selections may be one of a whole batch.
pub fn reducer_of_each<'a>(
    policy: &'a dyn Policy,
    selections: &[&Selection],
    seeds: &[u64],
) -> Box<dyn TokenReducer + Sync + 'a> {
    let mut different: Vec<&Selection> = Vec::new();
    let of_image = selections.iter().map(|&selection| {
        let known = different.iter().position(|&known| known == selection);
        known.unwrap_or_else(|| {
            different.push(selection);
            different.len() - 1
        })
    });
    let of_image: Vec<usize> = of_image.collect();
    let reducer = |&selection: &&Selection| policy.reducer(selection, seeds);
    match &different[..] {
        [] => policy.reducer(&Selection::All, seeds),
        [selection] => reducer(selection),
        _ => Box::new(MixedReducer {
            reducers: different
                .iter()
                .map(|selection| (**selection != Selection::All).then(|| reducer(selection)))
                .collect(),
            of_image,
        }),
    }
}

/// Asks for each image the reducer of its selection.
struct MixedReducer<'a> {
    /// One for each selection; none for that which removes nothing.
    reducers: Vec<Option<Box<dyn TokenReducer + Sync + 'a>>>,
    /// Per image of the batch: its reducer.
    of_image: Vec<usize>,
}

impl MixedReducer<'_> {
    /// Those that act in block `layer`.
    fn acting(&self, layer: usize) -> impl Iterator<Item = &(dyn TokenReducer + Sync)> {
        let reducers = self.reducers.iter().flatten();
        reducers
            .map(|reducer| &**reducer)
            .filter(move |reducer| reducer.placement(layer).is_some())
    }

    /// The slots of the images that each reducer decides about.
    fn slots(&self, sequences: &Sequences) -> Vec<Vec<usize>> {
        let mut slots = vec![Vec::new(); self.reducers.len()];
        for slot in 0..sequences.batch() {
            slots[self.of_image[sequences.image(slot)]].push(slot);
        }
        slots
    }
}

impl TokenReducer for MixedReducer<'_> {
    fn placement(&self, layer: usize) -> Option<Placement> {
        self.acting(layer)
            .find_map(|reducer| reducer.placement(layer))
    }

    fn needs(&self, layer: usize) -> Needs {
        let needs = self.acting(layer).map(|reducer| reducer.needs(layer));
        needs.fold(Needs::default(), |all, one| Needs {
            cls_attention: all.cls_attention || one.cls_attention,
            keys: all.keys || one.keys,
        })
    }

    fn by_image(&self) -> Option<&(dyn TokenReducer + Sync)> {
        let mut reducers = self.reducers.iter().flatten();
        reducers
            .all(|reducer| reducer.by_image().is_some())
            .then_some(self)
    }

    fn reduce(&self, observation: &Observation<'_>) -> Reduction {
        let (layer, sequences) = (observation.layer, observation.sequences);
        let mut all = Scattered::nothing(
            sequences,
            observation
                .parked
                .map_or(0, |parked| parked.positions().len()),
        );
        for (reducer, slots) in self.reducers.iter().zip(self.slots(sequences)) {
            let acting = reducer.as_ref();
            let acting = acting.filter(|reducer| reducer.placement(layer).is_some());
            let Some(reducer) = acting.filter(|_| !slots.is_empty()) else {
                continue;
            };
            if slots.len() == sequences.batch() {
                return reducer.reduce(observation);
            }
            let (own, rows) = sequences.of_slots(&slots);
            let parked = observation.parked;
            let parked = parked.map(|parked| parked.of_slots(sequences, &slots));
            let (parked, tokens) = parked.unzip();
            let reduction = reducer.reduce(&seen(observation, &own, &rows, parked.as_ref()));
            all.add(reduction, &slots, &rows, &tokens.unwrap_or_default());
        }
        all.reduction()
    }
}

/// What `observation` shows of the images in `own`, which have these of its rows.
fn seen<'a>(
    observation: &Observation<'a>,
    own: &'a Sequences,
    rows: &[usize],
    parked: Option<&'a Parked>,
) -> Observation<'a> {
    let hidden = &observation.hidden;
    let places = upload_places(rows.iter().copied(), &hidden.device());
    let attention = observation.cls_attention.as_ref();
    Observation {
        layer: observation.layer,
        hidden: hidden.clone().select(0, places),
        sequences: own,
        cls_attention: attention.map(|seen| rows.iter().map(|&row| seen[row]).collect()),
        keys: observation.keys.as_ref().map(|keys| keys.of_rows(rows)),
        parked,
        heads: observation.heads,
    }
}

/// The reductions of some images each, put together.
struct Scattered {
    keep: Vec<bool>,
    merge: Merge,
    merges: bool,
    exit: Option<Exit>,
    park: Option<Park>,
    restart: Vec<usize>,
    /// Tokens that are parked already.
    parked: usize,
}

impl Scattered {
    /// All rows stay as they are.
    fn nothing(sequences: &Sequences, parked: usize) -> Self {
        let rows = sequences.num_rows();
        Self {
            keep: vec![true; rows],
            merge: Merge {
                into: (0..rows).collect(),
                weights: vec![1.0; rows],
                proportion: None,
            },
            merges: false,
            exit: None,
            park: None,
            restart: Vec::new(),
            parked,
        }
    }

    /// Takes in what shall happen to these rows, of the images in these slots, and to these of the parked tokens.
    fn add(&mut self, reduction: Reduction, slots: &[usize], rows: &[usize], tokens: &[usize]) {
        if let Some(park) = reduction.park {
            let all = self.park.get_or_insert_with(|| Park {
                rows: vec![false; self.keep.len()],
                recall: vec![false; self.parked],
                readings: park.readings,
            });
            let rows = rows.iter().zip(park.rows);
            rows.for_each(|(&row, parks)| all.rows[row] = parks);
            let tokens = tokens.iter().zip(park.recall);
            tokens.for_each(|(&token, back)| all.recall[token] = back);
        }
        if let Some(exit) = reduction.exit.filter(|exit| !exit.slots.is_empty()) {
            let slots = exit.slots.iter().map(|&slot| slots[slot]).collect();
            let own = Exit { slots, ..exit };
            self.exit = Some(match self.exit.take() {
                Some(before) => both(before, own),
                None => own,
            });
        }
        let restart = reduction.restart.iter().map(|&slot| slots[slot]);
        self.restart.extend(restart);
        for (&row, keep) in rows.iter().zip(reduction.keep) {
            self.keep[row] = keep;
        }
        let Some(merge) = reduction.merge else {
            return;
        };
        self.merges = true;
        self.merge.proportion = merge.proportion.or(self.merge.proportion);
        for ((&row, into), weight) in rows.iter().zip(merge.into).zip(merge.weights) {
            self.merge.into[row] = rows[into];
            self.merge.weights[row] = weight;
        }
    }

    fn reduction(self) -> Reduction {
        Reduction {
            merge: self.merges.then_some(self.merge),
            exit: self.exit,
            park: self.park,
            restart: self.restart,
            ..Reduction::keep(self.keep)
        }
    }
}

/// The images of the one, and then those of the other.
fn both(one: Exit, other: Exit) -> Exit {
    let shifts = one.shifts.into_iter().zip(other.shifts);
    Exit {
        slots: one.slots.into_iter().chain(other.slots).collect(),
        shifts: shifts
            .map(|(one, other)| Tensor::cat(vec![one, other], 0))
            .collect(),
    }
}
