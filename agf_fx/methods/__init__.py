"""Methods as data: a rule table, an initial gradient, a read-out."""
