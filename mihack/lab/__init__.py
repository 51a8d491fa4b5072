"""Building blocks for small interpretability experiments.

This folder is copied whole into every generated repo, so it imports torch, TransformerLens and
matplotlib and never mihack.  The TransformerLens calls themselves stand in the experiment, where
they can be read and edited; what is here would only be in the way there.

    knobs     read the knobs at the top of an experiment, override them from the command line
    results   one folder per run: metrics against expectation, config, environment, figures
    comparison  two runs or several seeds of two settings side by side: python -m lab.comparison A B
    train     a short training loop for toy models
    schedules what to multiply the learning rate by at each step
    checkpoints  weights at log-spaced steps, and going on after a kill, bit for bit
    many      the same for many seeds or settings of a toy model at once
    othello   random legal games of Othello on a small board, all at once
    heads     scores that say what an attention head attends to
    patching  exact activation patching that runs only what a patch can change
    attribution  what every edge carries, by gradients at several points (EAP with integrated gradients)
    scan      the strongest examples of every neuron or head, over any number of tokens
    fourier   the Fourier basis of the integers mod p
    plots     the field's pictures, legible in grey and to colour-blind readers
    text      a small language-model corpus from text that ships with Python
"""
