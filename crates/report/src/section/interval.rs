//! How far an accuracy on some images may be from the accuracy on all.

/// Half the 95% interval of a share of so many images, as Wilson (1927) has it: it is not 0 where all images are right.
pub(super) fn half_interval(share: f64, images: f64) -> f64 {
    const Z: f64 = 1.96;
    let spread = share * (1.0 - share) / images + (Z / (2.0 * images)).powi(2);
    Z / (1.0 + Z * Z / images) * spread.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_images_narrow_the_interval_and_a_share_of_one_has_one() {
        assert!((half_interval(0.5, 1000.0) - 0.0309).abs() < 1e-4);
        assert!(half_interval(0.9, 100.0) > 2.5 * half_interval(0.9, 1000.0));
        let perfect = half_interval(1.0, 1000.0);
        assert!(perfect > 0.001 && perfect < 0.003, "{perfect}");
    }
}
