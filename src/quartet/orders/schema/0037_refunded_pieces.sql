-- migrate:up

-- What became of each piece that was ordered: its money was promised back by line, it is settled whether it comes back
-- to the shelf, and it has come back. No piece is counted twice, whoever counts.
ALTER TABLE order_items
    ADD COLUMN refunded_qty INT NOT NULL DEFAULT 0
        CONSTRAINT order_items_refunded CHECK (refunded_qty BETWEEN 0 AND quantity),
    ADD COLUMN settled_qty INT NOT NULL DEFAULT 0
        CONSTRAINT order_items_settled CHECK (settled_qty BETWEEN 0 AND quantity),
    ADD COLUMN restocked_qty INT NOT NULL DEFAULT 0
        CONSTRAINT order_items_restocked CHECK (restocked_qty BETWEEN 0 AND settled_qty);
-- Until now an order came back whole or not at all.
UPDATE order_items i SET settled_qty = quantity, restocked_qty = quantity
WHERE (order_id, sku) IN (SELECT order_id, sku FROM inventory_movements WHERE reason = 'returned');

-- Pieces that a refund was for, and pieces that came back with it.
ALTER TABLE refund_items
    ADD COLUMN quantity INT NOT NULL DEFAULT 0 CHECK (quantity >= 0),
    ADD COLUMN restocked INT NOT NULL DEFAULT 0 CHECK (restocked >= 0);
