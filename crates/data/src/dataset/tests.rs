use super::*;
use crate::samples::picture;
use proptest::prelude::*;

/// One image a label, recognisable by its place.
fn dataset(labels: &[usize], classes: usize) -> ImageDataset {
    let names = (0..classes).map(|c| format!("class{c}")).collect();
    let images = labels
        .iter()
        .enumerate()
        .map(|(i, &label)| (picture(2, 2, i as u8), label))
        .collect();
    ImageDataset::from_images(names, images).unwrap()
}

fn counts(set: &ImageDataset) -> Vec<usize> {
    let mut counts = vec![0; set.num_classes()];
    for i in 0..set.len() {
        counts[set.label(i)] += 1;
    }
    counts
}

#[test]
fn item_i_of_a_subset_is_item_indices_i() {
    let all = dataset(&[0, 1, 0, 1, 0], 2);
    let part = all.subset(&[4, 1, 3]).subset(&[2, 0]);
    assert_eq!(part.len(), 2);
    assert_eq!(part.image(0).unwrap(), all.image(3).unwrap());
    assert_eq!(part.name(1), "image#4");
}

#[test]
fn take_of_too_many_is_all() {
    let all = dataset(&[0, 1, 0], 2);
    assert_eq!((all.take(2).len(), all.take(9).len()), (2, 3));
}

#[test]
fn holding_out_is_class_balanced() {
    let labels: Vec<_> = (0..100).map(|i| i % 10).collect();
    let (rest, held) = dataset(&labels, 10).hold_out(25, 3);
    assert_eq!((rest.len(), held.len()), (75, 25));
    assert!(counts(&held).iter().all(|&count| count == 2 || count == 3));
}

#[test]
fn a_rare_class_keeps_half_of_its_images_while_others_can_give() {
    let mut labels = vec![0; 40];
    labels.extend([1, 1]);
    let (rest, held) = dataset(&labels, 2).hold_out(20, 0);
    assert_eq!(counts(&held), [19, 1]);
    assert_eq!(counts(&rest), [21, 1]);
}

#[test]
fn another_seed_holds_out_other_images() {
    let all = dataset(&[0; 60], 1);
    let names = |seed| {
        let (_, held) = all.hold_out(10, seed);
        (0..10).map(|i| held.name(i)).collect::<Vec<_>>()
    };
    assert_eq!(names(1), names(1));
    assert_ne!(names(1), names(2));
}

#[test]
fn a_label_without_a_class_is_an_error() {
    let error =
        ImageDataset::from_images(vec!["cat".into()], vec![(picture(1, 1, 0), 1)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "image#0 has label 1, expected a label below 1"
    );
}

#[test]
fn classes_are_found_by_name_in_another_order_and_among_more() {
    let all = dataset(&[0, 1, 1], 3);
    let names = |names: &[&str]| -> Vec<Vec<String>> {
        names.iter().map(|name| vec![name.to_string()]).collect()
    };
    let model = names(&["other", "class1", "class0"]);
    let renamed = all.with_classes(&model).unwrap();
    let labels: Vec<usize> = (0..3).map(|i| renamed.label(i)).collect();
    assert_eq!((labels, renamed.num_classes()), (vec![2, 1, 1], 3));
    assert_eq!(renamed.subset(&[2]).label(0), 1);
    let aliases = vec![
        vec!["n01".into(), "class1".into()],
        vec!["class0".into(), "zero".into()],
    ];
    let renamed = all.with_classes(&aliases).unwrap();
    assert_eq!(
        (renamed.label(0), renamed.class_names()[1].as_str()),
        (1, "zero")
    );
    let error = all
        .with_classes(&names(&["class0", "cat"]))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("class1") && error.contains("cat") && !error.contains("class2"),
        "{error}"
    );
    assert!(
        all.with_classes(&names(&["class0", "class1", "class1"]))
            .is_err()
    );
}

#[test]
fn burn_sees_the_same_items() {
    let all = dataset(&[0, 1], 2);
    let item = Dataset::get(&all, 1).unwrap();
    assert_eq!((item.label, item.index), (1, 1));
    assert_eq!(item.image, all.image(1).unwrap());
    assert_eq!(Dataset::iter(&all).count(), 2);
}

proptest! {
    #[test]
    fn every_image_is_either_held_out_or_kept(
        labels in proptest::collection::vec(0usize..5, 0..60), count in 0usize..70, seed: u64,
    ) {
        let all = dataset(&labels, 5);
        let (rest, held) = all.hold_out(count, seed);
        prop_assert_eq!(held.len(), count.min(all.len()));
        let mut members = [&rest.members[..], &held.members[..]].concat();
        members.sort_unstable();
        prop_assert_eq!(members, (0..all.len()).collect::<Vec<_>>());
        prop_assert!(rest.members.is_sorted() && held.members.is_sorted());
    }
}
