"""Building blocks for small interpretability experiments.

This folder is copied whole into every generated repo, so it imports torch, TransformerLens and
matplotlib and never mihack.  The TransformerLens calls themselves stand in the experiment, where
they can be read and edited; what is here would only be in the way there.

    knobs     read the knobs at the top of an experiment, override them from the command line
    models    one call to load an embedded model, a folder, a hub name or a GGUF file
    gguf      GGUF files as folders that TransformerLens loads
    prompts   clean and corrupt prompts: IOI, greater-than, docstring, pronoun, successor, acronym, induction
    prompt_sets  what a set of prompts is, and how its tokens are checked
    results   one folder per run: metrics against expectation, config, environment, figures
    comparison  two runs or several seeds of two settings side by side: python -m lab.comparison A B
    runs      finished runs read back: which belong together, how far seeds disagree
    report_text  REPORT.md as sections of safe HTML
    report_page  the report as one page that fetches nothing: python report.py
    train     a short training loop for toy models
    schedules what to multiply the learning rate by at each step
    checkpoints  weights at log-spaced steps, and going on after a kill, bit for bit
    many      the same for many seeds or settings of a toy model at once
    many_transformers  the same for one-layer transformers, without what nobody reads
    othello   random legal games of Othello on a small board, all at once
    heads     scores that say what an attention head attends to
    ov_circuits  scores that say what it does with that, from its weights
    lens      the stream read as logits: the logit lens, and every component's exact share of a logit
    patching  exact activation patching that runs only what a patch can change
    gradient_patching  an estimate of all its maps from one backward pass
    paths     what each head tells one later component directly, its query, key or value alone
    attribution  what every edge carries, by gradients at several points (EAP with integrated gradients)
    agreement  how far an estimate goes with the exact effects
    scan      the strongest examples of every neuron or head, over any number of tokens
    probes    linear probes with held-out scores, controls, and directions to intervene along
    probe_fits  ridge, logistic and mass-mean, in the units of the activations
    directions  hooks that add a direction, take it out, or mirror across it
    sae       sparse autoencoders and transcoders: ReLU, TopK, BatchTopK; saved as safetensors
    sae_training  their training loop, and what it does with dead latents
    dictionary_metrics  explained variance, L0, density, loss recovered, recovery of known features
    digits    scikit-learn's 8 by 8 digits, and gratings, lines and arcs drawn at that size
    gridworld mazes by the thousand, with the shortest way from every cell
    actor_critic  a policy gradient short enough to read, and greedy walks
    superposition  how features share dimensions: shares, cosines, alignment, figures in the plane
    planted   activations with known features in superposition, in groups or under parents
    planted_circuit  a transformer written by hand, whose circuit is certain, with parts that mislead
    fourier   the Fourier basis of the integers mod p
    plots     the field's pictures, legible in grey and to colour-blind readers
    text_plots  tokens coloured by a value, and the strongest examples of a unit, as pictures
    interactive  the same to point at: HTML for notebooks and reports that fetches nothing
    interactive_page  its style and script
    examples  the text around the places that a scan found
    scope     a scanned model: its units on any text you type, and their strongest places
    neuroscope  the page for that, served to this machine alone: python -m lab.neuroscope
    documents  text as a stream of documents: files, folders, shipped texts, the hub
    data      token rows of them on disk, in a fixed order, with the source of every token
    packing   the loop that packs tokens into rows
    text      a small language-model corpus from text that ships with Python
"""
