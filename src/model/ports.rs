//! Arrays with names: what a program takes and gives, and what its loop carries. One list of fields
//! makes the struct, the names, and the order in which its arrays lie.

/// A struct of arrays, each a `Self::Item`, in a fixed order.
pub trait Ports: Sized {
    /// What stands for an array: its shape, a tensor of a computation, a buffer.
    type Item;

    /// The arrays in order, each with its name.
    fn named(self) -> Vec<(&'static str, Self::Item)>;

    /// Takes as many arrays as there are from the front of `items`; none where they are too few.
    fn take(items: &mut dyn Iterator<Item = Self::Item>) -> Option<Self>;

    /// The arrays in order.
    fn items(self) -> Vec<Self::Item> {
        self.named().into_iter().map(|(_, item)| item).collect()
    }
}

/// Declares a generic struct of arrays and how it is taken apart and put together.
macro_rules! ports {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name<T> {
            $($(#[$field_meta])* pub $field: T,)*
        }

        impl<T> $crate::model::ports::Ports for $name<T> {
            type Item = T;

            fn named(self) -> Vec<(&'static str, T)> {
                vec![$((stringify!($field), self.$field)),*]
            }

            fn take(items: &mut dyn Iterator<Item = T>) -> Option<Self> {
                Some(Self { $($field: items.next()?),* })
            }
        }

        #[allow(dead_code, reason = "not every struct of arrays needs each of these")]
        impl<T> $name<T> {
            /// The same arrays in other hands: `each` gets every array's name and the array.
            pub fn map<U>(self, mut each: impl FnMut(&'static str, T) -> U) -> $name<U> {
                $name { $($field: each(stringify!($field), self.$field)),* }
            }

            /// References to the arrays.
            pub fn as_ref(&self) -> $name<&T> {
                $name { $($field: &self.$field),* }
            }
        }
    };
}

/// Declares a generic struct of arrays that need not all be there.
macro_rules! optional_ports {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name<T> {
            $($(#[$field_meta])* pub $field: Option<T>,)*
        }

        impl<T> Default for $name<T> {
            fn default() -> Self {
                Self { $($field: None),* }
            }
        }

        #[allow(dead_code, reason = "not every struct of arrays needs each of these")]
        impl<T> $name<T> {
            /// The arrays that are there, in order, each with its name.
            pub fn named(self) -> Vec<(&'static str, T)> {
                let all = [$((stringify!($field), self.$field)),*];
                let present = all.into_iter().filter_map(|(name, item)| Some((name, item?)));
                present.collect()
            }

            /// Takes those that `like` has from the front of `items`; none where they are too few.
            pub fn take_like<U>(
                like: &$name<U>,
                items: &mut dyn Iterator<Item = T>,
            ) -> Option<Self> {
                Some(Self {
                    $($field: match &like.$field {
                        Some(_) => Some(items.next()?),
                        None => None,
                    }),*
                })
            }

            /// The same arrays in other hands: `each` gets every array's name and the array.
            pub fn map<U>(self, mut each: impl FnMut(&'static str, T) -> U) -> $name<U> {
                $name { $($field: self.$field.map(|item| each(stringify!($field), item))),* }
            }

            /// References to the arrays.
            pub fn as_ref(&self) -> $name<&T> {
                $name { $($field: self.$field.as_ref()),* }
            }
        }
    };
}

pub(crate) use optional_ports;
pub(crate) use ports;
