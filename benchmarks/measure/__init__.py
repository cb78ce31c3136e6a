"""How good the images of a method are."""
