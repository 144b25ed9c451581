-- Nothing to do here: one trigger follows the events already. SQLite had one for each type of event.
SELECT 1;
