"""What kind of training set was it? A classifier of heads by a property of their training sets."""
