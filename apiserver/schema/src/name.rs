//! Checks of names: DNS labels, subdomains, qualified names, with upstream's texts.
