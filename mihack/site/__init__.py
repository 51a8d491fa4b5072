"""The catalogue as a static site: from the index to pages, which need no server and no network.

    pages      index -> {path: bytes}, pure: the same catalogue gives the same bytes
    markdown   a card's Markdown as HTML in which nothing can run
    listing    the data that the list in the browser filters and searches
    write      one staged write, as for a repo
    serve      look at it on this computer

A card is untrusted: its text is escaped by the templates (autoescape), its Markdown is rendered with
HTML off and an own list of link schemes, and every page forbids scripts that are not the site's own.
"""
