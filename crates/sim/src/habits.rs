//! What liars do, each with a name that reports count it under.

/// Makes an enumeration of habits: `habits! { pub(crate) enum Habit  Variant = "name", }`.
macro_rules! habits {
    ($vis:vis enum $habit:ident $($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Something that a liar does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $habit {
            $($(#[$doc])* $variant,)*
        }

        impl $habit {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}
