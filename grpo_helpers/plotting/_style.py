"""Colours that every figure shares."""

# Okabe and Ito's palette, made for colour-blind readers; the grey is dark enough to differ from its purple and green.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
