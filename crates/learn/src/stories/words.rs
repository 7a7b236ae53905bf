//! What stories are made of. Things and animals start with a consonant, so that "a" fits them.

/// Names, and whether the story says "she".
pub const CHILDREN: &[(&str, bool)] = &[
    ("Anna", true),
    ("Ben", false),
    ("Clara", true),
    ("David", false),
    ("Ella", true),
    ("Finn", false),
    ("Greta", true),
    ("Hugo", false),
    ("Ida", true),
    ("Jonas", false),
    ("Kira", true),
    ("Leo", false),
    ("Mila", true),
    ("Noah", false),
    ("Olga", true),
    ("Paul", false),
    ("Rosa", true),
    ("Sami", false),
    ("Tara", true),
    ("Victor", false),
    ("Wanda", true),
    ("Yusuf", false),
    ("Zoe", true),
    ("Arun", false),
];

/// An animal and its name.
pub const COMPANIONS: &[(&str, &str)] = &[
    ("dog", "Biscuit"),
    ("cat", "Shadow"),
    ("goat", "Button"),
    ("donkey", "Pepper"),
    ("rabbit", "Clover"),
    ("goose", "Pearl"),
    ("pony", "Maple"),
    ("fox", "Rusty"),
    ("hen", "Dotty"),
    ("raven", "Ink"),
    ("hedgehog", "Thimble"),
    ("turtle", "Pebble"),
    ("sheep", "Woolly"),
    ("mouse", "Crumb"),
];

pub const PLACES: &[&str] = &[
    "the river",
    "the old bridge",
    "the market",
    "the lighthouse",
    "the dark forest",
    "the green hill",
    "the lake",
    "the windmill",
    "the apple orchard",
    "the harbour",
    "the castle ruin",
    "the school yard",
    "the railway station",
    "the long beach",
    "the stone well",
    "the meadow",
];

pub const THINGS: &[&str] = &[
    "red ball",
    "blue kite",
    "silver key",
    "wooden boat",
    "warm hat",
    "little drum",
    "picture book",
    "brass bell",
    "green lantern",
    "toy train",
    "golden button",
    "paper crown",
    "shiny whistle",
    "magic stone",
];

pub const FOODS: &[&str] = &[
    "bread",
    "apple cake",
    "cheese",
    "pancakes",
    "rolls",
    "berries",
    "honey cake",
    "roasted nuts",
    "plum pie",
    "waffles",
];

/// How the day looks, and how that feels.
pub const WEATHERS: &[(&str, &str)] = &[
    ("the sun was shining", "happy"),
    ("snow covered the roofs", "full of joy"),
    ("fog hid the fields", "curious"),
    ("the wind was strong", "brave"),
    ("rain tapped on the window", "a little sleepy"),
    ("the sky was clear", "cheerful"),
    ("frost glittered on the grass", "wide awake"),
    ("clouds raced over the hills", "restless"),
];

pub const MORALS: &[&str] = &[
    "a good friend is worth more than gold",
    "it helps to stay calm",
    "sharing makes a small meal big",
    "saying sorry is not hard",
    "even a small helper can do great things",
    "kind deeds come back",
    "two can do what one cannot",
    "it is best to look twice",
    "courage grows when it is used",
];
